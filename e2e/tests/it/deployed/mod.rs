//! The production shape, from the very files that start it: docker-compose.yml, the Dockerfile and
//! deploy/, with a loopback address for each container.

mod backup;
mod console;
mod permissions;
mod rolling;
mod settings;
