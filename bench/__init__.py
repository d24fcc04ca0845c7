"""Measurements of graftwork beside raw torch and its peers, for developers: `python -m bench` lists the cases."""
