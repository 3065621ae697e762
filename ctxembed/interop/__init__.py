"""Models of other libraries: as teachers under our Protocols (``teacher``), or made into our own (``importing``)."""
