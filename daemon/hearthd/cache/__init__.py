"""The cache of answers: equal deterministic requests are computed once; what is kept cannot leak or lie."""
