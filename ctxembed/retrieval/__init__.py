"""How an index is searched: ranking on arrays, token vectors, and the run of a query from vectors and words to hits."""
