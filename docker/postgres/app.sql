-- The account of the application, which owns its database and is no superuser.
CREATE ROLE app LOGIN PASSWORD 'app-secret';
ALTER DATABASE app OWNER TO app;
