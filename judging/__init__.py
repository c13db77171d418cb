"""What is asked of an image before it may pass a border: policy, signatures, a scanner's hook. For either side.

Knows images as releases name them, and blobs; no registry, no journal, no wire, and not which side it judges for.
"""
