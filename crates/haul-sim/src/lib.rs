//! haul-sim
