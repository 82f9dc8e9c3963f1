"""Numbers on a grid."""
