"""What a device of the group runs: it holds models, computes tiles and passes feature maps on."""
