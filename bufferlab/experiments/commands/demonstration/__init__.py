"""What ``bufferlab demo`` does: both worlds side by side, every figure predicted before it is measured."""
