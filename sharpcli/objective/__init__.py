"""L(θ): a model as a function of its parameters, its rows, and what is checked beforehand."""
