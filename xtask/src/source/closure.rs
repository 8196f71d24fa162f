//! Which files make a package: what git tracks or does not ignore in it and in its path
//! dependencies. Refuses what it cannot hash: sockets, links out of the closure, nested repositories.
