"""Search: what is asked, where candidates come from, and how they are fused, thinned out, grouped and ranked."""
