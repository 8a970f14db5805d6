//! Hosts on a fabric, real sockets in real namespaces, and a thread that plays the mesh.

mod cases;
mod lab;
mod life;
mod measure;
