"""Registries and image layouts: reference, descriptor, client (pull and push), layout, server.

Knows nothing of the diode: it never imports ``protocol``, ``sender`` or ``receiver``.
"""
