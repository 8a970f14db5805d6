//! Requests of the API, checked and turned into transactions.
