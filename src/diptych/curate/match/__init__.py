"""Which captions hold which queries, and the balance of the queries."""
