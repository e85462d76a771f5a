"""Telling people: channels and delivery."""
