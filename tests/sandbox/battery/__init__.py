"""Attacks on the host from inside a jail, each with a control that shows that it works where nothing stops it."""
