"""What adding noise to a large parameter costs."""
