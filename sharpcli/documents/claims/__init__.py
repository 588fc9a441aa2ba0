"""Claims of the literature: what is predicted, the statistic, its interval, and the verdict.

An experiment says before its runs which number decides each claim. The number is computed for each
seed by itself; its interval is Student's, over seeds. Reads only files, without torch.
"""
