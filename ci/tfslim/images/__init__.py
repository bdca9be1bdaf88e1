"""Reading images and folders in one pass, and making slimmer images of them."""
