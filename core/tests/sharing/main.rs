//! The sharing room through its public door: attacks, properties, official vectors.

mod attacks;
mod fixtures;
mod properties;
mod vectors;
