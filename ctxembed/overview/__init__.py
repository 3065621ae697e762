"""What an index holds as a whole: near-duplicates, topics, and a map in the plane."""
