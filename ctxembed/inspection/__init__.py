"""Inside the network: every step of one sentence, recorded while the modules that serve compute it."""
