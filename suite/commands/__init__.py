"""What the commands of `kernelgate` do; `suite.cli` declares them and turns errors into sentences."""
