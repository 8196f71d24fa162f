//! DataStorage through its API, against a real PostgreSQL: each test has a service and a database
//! of its own. The server is named by TEST_POSTGRES_URL, the URL of a superuser.

mod audit;
mod catalog;
mod database;
mod edge;
mod executions;
mod helpers;
mod requests;
mod watch;
