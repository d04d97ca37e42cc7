"""What the library draws itself: faces and shapes, so that everything runs offline."""
