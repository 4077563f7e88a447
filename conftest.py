"""Loads the pytest plugin; everything is in suite/pytest_plugin.py."""

pytest_plugins = ["suite.pytest_plugin"]
