-- Recovery lists what is prepared with XA RECOVER, which MySQL allows with this privilege only.
GRANT XA_RECOVER_ADMIN ON *.* TO 'app'@'%';
