"""Long trials, which are no part of `make test`; each prints its figures and writes them beside the documents."""
