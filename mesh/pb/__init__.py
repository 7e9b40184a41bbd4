"""Generated protocol messages (`make proto`); their sources are the .proto files beside them. Nothing is written by hand here."""
