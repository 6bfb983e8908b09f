"""The linear probe of the paper: solver, search of the penalty, few shots."""
