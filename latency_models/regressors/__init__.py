"""Regressors on plain matrices: scikit-learn estimators that know nothing of operators, spaces or devices."""
