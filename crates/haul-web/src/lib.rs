//! haul-web
