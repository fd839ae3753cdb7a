"""Kills parts of the running service at random instants and checks that nothing is lost, doubled, stuck or left."""
