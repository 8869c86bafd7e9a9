"""Who drives the stages of the flow: Ray, or for little work one process without Ray."""
