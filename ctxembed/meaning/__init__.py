"""The project's own subject, on arrays: uses of words compared across contexts."""
