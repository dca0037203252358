"""Who is trained how: treatments, the routes to them, and a policy resolved on a model."""
