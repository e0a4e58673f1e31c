"""Weight codecs: how a matrix becomes codes and scales. One file each."""
