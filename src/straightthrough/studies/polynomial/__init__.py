"""Polynomial programming."""
