"""What a process of either side needs of its host: settings, keys, logs, journal, roles, terminal, systemd.

Knows nothing of the diode's protocol or of registries: it never imports ``protocol``, ``oci``, ``sender`` or
``receiver``.
"""
