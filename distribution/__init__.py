"""Makes what users install: one self-extracting file for hosts without a network, and Debian packages.

The way of a release, one stage a file: ``project`` (what is in the tree) → ``split`` (which modules a side needs) →
``wheel`` (our own wheels) and ``lock``, ``download`` (those of others) → ``sbom`` → ``bundle`` (the folder with its
checksums and signature) → ``runfile`` or ``deb``. The same commit gives the same bytes.
"""
