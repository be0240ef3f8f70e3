//! The only file that knows PyO3.
