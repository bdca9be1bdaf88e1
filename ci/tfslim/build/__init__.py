"""Building images: bases pulled or made, bake driven, the local cache kept."""
