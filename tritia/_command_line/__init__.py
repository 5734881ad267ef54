"""The commands `tritia compare` and `tritia sweep`, on top of the libraries they run."""
