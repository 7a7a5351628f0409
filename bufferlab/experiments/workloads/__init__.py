"""Requests, from presets and files."""
