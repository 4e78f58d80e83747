"""Lets Scrapyd 1.2 run on Python 3.12 and later, which no longer has these names."""

import configparser

configparser.SafeConfigParser = configparser.ConfigParser
configparser.ConfigParser.readfp = configparser.ConfigParser.read_file
