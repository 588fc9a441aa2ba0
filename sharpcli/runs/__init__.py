"""What each command computes, without Click."""
