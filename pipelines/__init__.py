"""Jobs: spec -> plan -> Ray Data graph -> Lance commit -> index -> gates -> tag. The only package with Ray Data in it."""
