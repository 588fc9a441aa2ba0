"""The loss L(θ): a model as a function of its parameters, its rows, and checks of both."""
