"""The linear probe of the paper: the classifier, the search for its penalty, the solver."""
