-- Owns what the jobs of this role make. Give it what they may do.
CREATE ROLE "etl-production" NOLOGIN;
-- Owns what the jobs of this role make. Give it what they may do.
CREATE ROLE "etl-scratch" NOLOGIN;
-- Owns what the jobs of this role make. Give it what they may do.
CREATE ROLE "etl-staging" NOLOGIN;
