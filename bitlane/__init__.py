"""Bitlane's client side. It speaks HTTP only."""
